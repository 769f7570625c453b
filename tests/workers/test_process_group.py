import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
CODE = """
import os, sys, torch
from workers.ranks.process_group import join
rank, size, url = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
world = join(url, rank, size, "127.0.0.1")
words = torch.tensor([rank, 0])
for other, link in world.links.items():
    if rank:
        link.send(words)
    else:
        link.receive(words)
        print(other, words[0].item(), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_tp0_has_a_link_to_each_other_leader(tmp_path):
    """
    With more than two ranks, each on its own, whatever order they come in.
    """
    size = 4
    url = f"file://{tmp_path}/rendezvous"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(rank), str(size), url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in reversed(range(size))
    ]
    try:
        heard = [process.communicate(timeout=LIMIT_S)[0].split() for process in ranks]
    finally:
        for process in ranks:
            process.kill()

    assert heard == [[], [], [], ["1", "1", "2", "2", "3", "3"]]
