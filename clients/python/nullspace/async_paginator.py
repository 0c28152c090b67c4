"""Pages of sandboxes, for the async client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Optional

from nullspace._client_aio import AsyncClient
from nullspace._gen.v1 import sandbox_pb2
from nullspace._responses import sandbox_info
from nullspace._rpc import LIST_SANDBOXES
from nullspace.records import SandboxInfo


class AsyncSandboxPaginator:
    """Sandboxes, newest first, a page at a time. As :class:`SandboxPaginator`, with await."""

    def __init__(
        self,
        client: AsyncClient,
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

    async def _load(self) -> AsyncSandboxPaginator:
        """Reads the page that the request asks for."""
        response = await self._client.call(LIST_SANDBOXES, self._request, self._request_timeout)
        self.items = [sandbox_info(sandbox) for sandbox in response.sandboxes]
        self.next_token = response.next_page_token or None
        return self

    @property
    def has_next(self) -> bool:
        """Whether another page follows."""
        return self.next_token is not None

    async def next_items(self) -> list[SandboxInfo]:
        """Reads the next page into ``items``, and gives it. Empty after the last."""
        if self.next_token is None:
            self.items = []
        else:
            self._request.page_token = self.next_token
            await self._load()
        return self.items

    async def __aiter__(self) -> AsyncIterator[SandboxInfo]:
        for item in self.items:
            yield item
        while self.has_next:
            for item in await self.next_items():
                yield item
        await self.close()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> SandboxInfo:
        return self.items[index]

    async def close(self) -> None:
        """Gives up the connections."""
        await self._client.close()

    async def __aenter__(self) -> AsyncSandboxPaginator:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()
