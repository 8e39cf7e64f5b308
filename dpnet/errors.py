"""The one exception that users see as a single line."""


class DPNetError(Exception):
    """A problem that the user can mend: the message names the file or value and the way out."""
