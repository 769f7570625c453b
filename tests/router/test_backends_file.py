"""What a file of backends may say."""

import subprocess
import sys
from contextlib import suppress

import pytest

from router.backends.backend import Backend, Kind
from router.backends.backends_file import backends_in
from router.backends.file_source import read_backends
from router.backends.lacks import Lacks
from router.errors import ConfigError
from router.options import parse_serve

KEYS, NONE = Lacks({"KEY": "sk-1"}), Lacks({})
ENTRIES = (
    Backend("10.0.0.1", 8000, Kind.VLLM),
    Backend("a", 443, Kind.SGLANG, 8, 2.0, "unverified", "KEY"),
    Backend("b", 80, weight=0.5),
)
YAML = b"""
backends:
  - http://10.0.0.1:8000,kind=vllm
  - url: https://a
    kind: sglang
    dp-size: 8
    weight: 2
    insecure-skip-verify: true
    api-key-env: KEY
  - {url: "http://b", weight: 0.5}
"""
TOML = b"""
backends = [
    "http://10.0.0.1:8000,kind=vllm",
    {url = "https://a", kind = "sglang", dp_size = 8, weight = 2, \
insecure_skip_verify = true, api_key_env = "KEY"},
    {url = "http://b", weight = 0.5},
]
"""
TABLES = b"""
[[backends]]
url = "http://b"
weight = 0.5
"""


@pytest.mark.parametrize(
    ("suffix", "content", "backends"),
    [
        (".yaml", YAML, ENTRIES),
        (".yml", b"\xef\xbb\xbf" + YAML, ENTRIES),
        (".toml", TOML, ENTRIES),
        (".toml", TABLES, ENTRIES[2:]),
        (".yaml", b"backends: []", ()),
        (".toml", b"backends = []", ()),
        (".yaml", b"backends: [{url: http://a, insecure-skip-verify: false}]", (Backend("a", 80),)),
    ],
)
def test_a_file_lists_backends_as_the_flag_has_them_or_key_by_key(suffix, content, backends):
    """
    In both languages the same, with - or _ in keys; none at all if that is said.
    """
    assert backends_in(content, suffix, KEYS) == backends


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: to have none, say so: `backends: []`"),
        (b" \n\n", "is empty: to have none, say so"),
        (b"# later\n", "has no list `backends`: to have none, say so"),
        (b"backends:\n", "`backends` is empty: allowed is a list; to have none, say so"),
        (b"backends: {}", "`backends` is {}: allowed is a list"),
        (b"- http://a", "has no list `backends`"),
        (b"backends: []\nversion: 1", "'version': allowed is `backends`, and nothing beside it"),
        (b"backends: [http://a, ftp://b]", "entry 2: 'ftp://b': allowed is http://host:port"),
        (b"backends: [http://a, 7]", "entry 2: 7: allowed is a string as --backend has it, or"),
        (b"backends: [~]", "entry 1: empty: allowed is a string"),
        (b"backends: [{kind: vllm}]", "entry 1: has no url"),
        (b"backends: [{url: 'http://a,kind=vllm'}]", "entry 1: 'http://a,kind=vllm': allowed is"),
        (b"backends: [{url: http://u:pw@a}]", "entry 1: '***@a': allowed is"),
        (
            b"backends: [{url: http://a, role: x}]",
            "entry 1: 'role': allowed are url, kind, dp-size",
        ),
        (b"backends: [{url: http://a, dp-size: two}]", "dp-size='two': allowed is an integer"),
        (b"backends: [{url: http://a, dp-size: true}]", "dp-size=True: allowed is an integer"),
        (b"backends: [{url: http://a, dp-size: 0}]", "entry 1: dp-size=0: allowed are integers, 1"),
        (b"backends: [{url: http://a, kind: }]", "entry 1: kind=empty: allowed is a string"),
        (b"backends: [{url: http://a, kind: tgi}]", "entry 1: kind=tgi: allowed are auto, vllm"),
        (b"backends: [{url: http://a, weight: [1]}]", "entry 1: weight=[1]: allowed is a number"),
        (b"backends: [{url: http://a, weight: .nan}]", "entry 1: weight=nan: allowed are 0.01"),
        (b"backends: [{url: http://a, weight: 1, weight: 2}]", "line 1: 'weight' is told twice"),
        (b"backends: []\nbackends: [http://a]", "line 2: 'backends' is told twice"),
        (b"backends: [{url: http://a, dp-size: 1, dp_size: 2}]", "'dp_size': is told twice"),
        (b"backends: [http://a, 'http://a:80/']", "entry 2: url=http://a:80: is told twice"),
        (b"backends: [{url: http://a, api-key-env: MY}]", "entry 1: api-key-env=MY: the environm"),
        (b"backends: [{url: http://a, api-key-env: 77}]", "entry 1: api-key-env=***: allowed is"),
        (b"backends: [http://a", "is no YAML: while parsing a flow sequence"),
        (b"backends: [a]\n---\nb: c", "is no YAML: expected a single document"),
        (b"backends: !!python/object:os.system [x]", "is no YAML: could not determine a constr"),
        (b"\xff\xfe\x00", "is no UTF-8"),
        (b"backends: " + b"[" * 9000, "is nested too deeply"),
        (b"backends: []" + b" " * (1 << 20), "is too large: allowed are 1048576 bytes"),
    ],
)
def test_a_bad_file_is_refused_by_entry_key_and_what_is_allowed(content, said):
    """
    Whoever reads that finds the place.
    """
    with pytest.raises(ValueError) as refused:  # noqa: PT011  its words are what is tested
        backends_in(content, ".yaml", NONE)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"backends = [", "is no TOML: "),
        (b"backends = 1979-05-27", "`backends` is datetime.date(1979, 5, 27): allowed is a list"),
        (b"[backends]\nurl = 'http://a'", "allowed is a list"),
        (b"# nothing", "has no list `backends`"),
    ],
)
def test_a_bad_toml_file_is_refused_too(content, said):
    """
    In the same words.
    """
    with pytest.raises(ValueError) as refused:  # noqa: PT011  its words are what is tested
        backends_in(content, ".toml", NONE)

    assert said in str(refused.value)


@pytest.mark.parametrize("key", ["api-key", "token"])
def test_a_secret_under_a_key_that_is_not_known_is_not_told_on(key):
    """
    The name of the key is enough to find it.
    """
    content = f"backends: [{{url: http://a, {key}: sk-secret}}]".encode()
    with pytest.raises(ValueError, match=key) as refused:
        backends_in(content, ".yaml", NONE)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("suffix", "content"), [(".yaml", YAML), (".toml", TOML)])
def test_no_beginning_of_a_file_is_taken_for_no_backends(suffix, content):
    """
    However little of it has been written; what is left out at the end cannot be seen.
    """
    for length in range(len(content.rstrip())):
        with suppress(ValueError):
            assert backends_in(content[:length], suffix, KEYS) != ()


@pytest.mark.parametrize("place", ["5557", "'5557'", "tcp://h:5557"])
def test_events_of_a_backend_are_a_port_or_a_place(place):
    """
    If there is a tokenizer; else the file is refused.
    """
    content = f"backends: [{{url: http://h:1, kv-events: {place}, kv_replay: 5558}}]".encode()

    (backend,) = backends_in(content, ".yaml", Lacks({}, "/some"))

    assert (backend.kv_events, backend.kv_replay) == ("tcp://h:5557", "tcp://h:5558")
    with pytest.raises(ValueError, match=r"entry 1: kv-events: .*: say --tokenizer-path too"):
        backends_in(content, ".yaml", NONE)


@pytest.mark.parametrize(
    "link", ["[%s]", "{<<: [%s]}"], ids=["lists of lists", "mappings that are merged"]
)
def test_a_page_of_aliases_is_refused_before_it_is_written_out(link):
    """
    Each stands for ten of the one before: 10^30 values of a kilobyte.
    """
    links = [f"x{n}: &a{n} " + link % ",".join([f"*a{n - 1}"] * 10) for n in range(1, 30)]
    text = "\n".join(["x0: &a0 {k: v}", *links, "backends: [*a29]"])

    with pytest.raises(ValueError, match="allowed are 100000 values, aliases written out"):
        backends_in(text.encode(), ".yaml", NONE)


def test_what_several_entries_share_may_be_an_alias():
    """
    As people write YAML.
    """
    text = b"backends: [&a {url: 'http://b', kind: vllm}, {<<: *a, url: 'http://c'}]"

    assert [each.kind for each in backends_in(text, ".yaml", NONE)] == [Kind.VLLM, Kind.VLLM]


def test_more_entries_than_there_can_be_groups_are_refused():
    """
    By their number, not after a minute.
    """
    text = b"backends:\n" + b"".join(b"  - http://b:%d\n" % port for port in range(1, 5002))

    with pytest.raises(ValueError, match="5001 entries: allowed are 4096"):
        backends_in(text, ".yaml", NONE)


def test_yaml_without_its_reader_is_refused_and_toml_is_not():
    """
    With the command that mends it.
    """
    code = (
        "import sys; sys.modules['yaml'] = None\n"
        "from router.backends.backends_file import backends_in\n"
        "from router.backends.lacks import Lacks\n"
        "print(len(backends_in(b'backends = [\"http://a\"]', '.toml', Lacks({}))))\n"
        "try: backends_in(b'backends: []', '.yaml', Lacks({}))\n"
        "except ValueError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == (
        "1\nYAML needs a package that is not there: pip install 'levelhead[yaml]', or write TOML\n"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.json", b"{}", "allowed are files that end in .yaml, .yml, .toml"),
        ("b.yaml", None, "cannot be read: No such file or directory"),
        ("b.yaml", b"backends: [7]", "entry 1: 7: allowed is"),
    ],
)
def test_a_bad_file_refuses_the_start(tmp_path, name, content, said):
    """
    By the flag and the file.
    """
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError) as refused:
        parse_serve(["--backends-file", str(path)], {})

    assert str(refused.value).startswith(f"--backends-file {path}: {said}")


def test_a_folder_is_no_file(tmp_path):
    """
    Nor is a pipe, which would never end.
    """
    (tmp_path / "b.yaml").mkdir()
    with pytest.raises(ValueError, match="is no file"):
        read_backends(tmp_path / "b.yaml", NONE)


def test_flags_of_our_workers_are_refused_beside_a_file_of_backends(tmp_path):
    """
    As beside --backend.
    """
    path = tmp_path / "b.yaml"
    path.write_bytes(b"backends: []")

    with pytest.raises(ConfigError, match="--dp-size 3: is for workers of ours"):
        parse_serve(["--backends-file", str(path), "--dp-size", "3"], {})

    assert parse_serve(["--backends-file", str(path)], {}).backends_file == str(path)
