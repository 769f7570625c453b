"""
What can go wrong with a shared-memory segment.

* SegmentError
  - SegmentMissing      there is no segment of that name
  - SegmentExists       there is one already, and its owner is alive
  - NotReady            its creator has not finished, or nobody has published yet
  - WrongMagic          somebody else's segment, or another kind of ours
  - WrongVersion        another version's layout
  - Truncated           fewer bytes than its header promises
  - AccessDenied        it belongs to another user, or may not be opened
  - NoMemory            the system has not enough shared memory left
  - PayloadTooLarge     what is to be published does not fit
  - TornRead            no consistent copy in a bounded number of attempts
  - InvalidName         a name that cannot be a segment's
  - InvalidRecord       the payload is not what this kind of segment holds
"""


class SegmentError(Exception):
    """Base class: catch this to survive anything a segment can do."""


class SegmentMissing(SegmentError):
    """There is no segment of that name."""


class SegmentExists(SegmentError):
    """A segment of that name exists and its owner is alive."""


class NotReady(SegmentError):
    """The segment's creator has not finished, or nothing has been published yet."""


class WrongMagic(SegmentError):
    """The segment is somebody else's, or another kind of ours."""


class WrongVersion(SegmentError):
    """The segment has another version's layout."""


class Truncated(SegmentError):
    """The segment has fewer bytes than its header promises."""


class AccessDenied(SegmentError):
    """The segment belongs to another user, or may not be opened."""


class NoMemory(SegmentError):
    """The system has not enough shared memory left."""


class PayloadTooLarge(SegmentError):
    """What is to be published does not fit; nothing was written."""


class TornRead(SegmentError):
    """No consistent copy could be taken in a bounded number of attempts."""


class InvalidName(SegmentError):
    """The name cannot be an instance's or a segment's."""


class InvalidRecord(SegmentError):
    """The payload is not what this kind of segment holds."""
