"""
A writer that publishes as fast as it can: python -m tests.shm.full_speed INSTANCE GROUPS

Every figure of the record with sequence s is s, so that a mix shows.
"""

import sys
from itertools import count

from shm.load import Accepted, LoadReader, LoadReport, LoadWriter

NUM_FRONT_DOORS = 2


def reports(sequence, num_groups):
    """What the writer publishes with that sequence."""
    scalars = [sequence] * (len(LoadReport._fields) - 1)
    accepted = (Accepted(*[sequence] * len(Accepted._fields)),) * NUM_FRONT_DOORS
    return (LoadReport(*scalars, accepted),) * num_groups


def main(instance, num_groups):
    reader = LoadReader.attach(instance)
    writer = LoadWriter.attach(instance, num_groups, NUM_FRONT_DOORS)
    for sequence in count(reader.current_sequence + 1):
        writer.publish(reports(sequence, num_groups), published_ns=sequence)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
