"""Pages of sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Optional

from nullspace._client import Client
from nullspace._gen.v1 import sandbox_pb2
from nullspace._responses import sandbox_info
from nullspace._rpc import LIST_SANDBOXES
from nullspace.records import SandboxInfo


class SandboxPaginator:
    """Sandboxes, newest first, a page at a time.

    ``len()`` and ``[]`` are of the page in ``items``; iteration goes over all
    pages from this one on, and closes the paginator at the end.
    """

    def __init__(
        self,
        client: Client,
        request: sandbox_pb2.ListSandboxesRequest,
        request_timeout: Optional[float] = None,
    ) -> None:
        self._client = client
        self._request = request
        self._request_timeout = request_timeout
        #: The page that was read last.
        self.items: list[SandboxInfo] = []
        #: Where the next page begins. None after the last.
        self.next_token: Optional[str] = None
        self._load()

    def _load(self) -> None:
        response = self._client.call(LIST_SANDBOXES, self._request, self._request_timeout)
        self.items = [sandbox_info(sandbox) for sandbox in response.sandboxes]
        self.next_token = response.next_page_token or None

    @property
    def has_next(self) -> bool:
        """Whether another page follows."""
        return self.next_token is not None

    def next_items(self) -> list[SandboxInfo]:
        """Reads the next page into ``items``, and gives it. Empty after the last."""
        if self.next_token is None:
            self.items = []
        else:
            self._request.page_token = self.next_token
            self._load()
        return self.items

    def __iter__(self) -> Iterator[SandboxInfo]:
        yield from self.items
        while self.has_next:
            yield from self.next_items()
        self.close()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> SandboxInfo:
        return self.items[index]

    def close(self) -> None:
        """Gives up the connections."""
        self._client.close()

    def __enter__(self) -> SandboxPaginator:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()
