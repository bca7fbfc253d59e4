"""What goes wrong when the store is written."""

from vllm_codesign.model.errors import CodesignError


class StoreError(CodesignError, OSError):
    """The store cannot be written. Serving and exporting go on; the caller warns and counts.

    It is an `OSError` as well, for callers to whom all trouble with files is one.
    """
