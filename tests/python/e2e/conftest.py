"""A real server, and both flavours of the client behind one face.

Tests are written once, as if everything were blocking. For the async client
each call runs in an event loop of its own thread, and what it gives back is
wrapped the same way.
"""

import asyncio
import contextlib
import inspect
import os
import pathlib
import threading

import pytest

import nullspace
from nullspace import SandboxError

HERE = pathlib.Path(__file__).parent
REQUIRED = ("NULLSPACE_API_URL", "NULLSPACE_API_KEY")


def pytest_collection_finish(session):
    missing = [name for name in REQUIRED if not os.environ.get(name)]
    if missing and any(HERE in item.path.parents for item in session.items):
        raise pytest.UsageError(
            f"the end-to-end tests need a server: set {' and '.join(missing)} (`make test` does)"
        )


class Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, function, *args, **kwargs):
        """Calls in the loop, and awaits what can be awaited."""

        async def invoke():
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(invoke(), self.loop).result()

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Blocking:
    """Something of the async client, to be used as if it were blocking."""

    def __init__(self, loop, target):
        self._loop, self._target = loop, target

    def _wrap(self, value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._wrap, value)) if type(value) in (list, tuple) else value
        asynchronous = type(value).__name__.startswith("Async") or inspect.isasyncgen(value)
        return Blocking(self._loop, value) if asynchronous else value

    def __getattr__(self, name):
        value = getattr(self._target, name)
        if not callable(value):
            return self._wrap(value)

        def call(*args, **kwargs):
            return self._wrap(self._loop.call(value, *args, **kwargs))

        return call

    def __call__(self, *args, **kwargs):
        return self._wrap(self._loop.call(self._target, *args, **kwargs))

    def __iter__(self):
        iterator = self._loop.call(self._target.__aiter__)
        while True:
            try:
                yield self._loop.call(iterator.__anext__)
            except StopAsyncIteration:
                return

    def __len__(self):
        return len(self._target)

    def __getitem__(self, index):
        return self._target[index]

    def __repr__(self):
        return repr(self._target)

    def __enter__(self):
        return self._wrap(self._loop.call(self._target.__aenter__))

    def __exit__(self, *raised):
        return self._loop.call(self._target.__aexit__, *raised)


class Api:
    """The client in one of its flavours."""

    def __init__(self, flavour):
        self.flavour = flavour
        if flavour == "sync":
            self.Sandbox, self.System = nullspace.Sandbox, nullspace.System
        else:
            self._loop = Loop()
            self.Sandbox = Blocking(self._loop, nullspace.AsyncSandbox)
            self.System = Blocking(self._loop, nullspace.AsyncSystem)

    def close(self):
        if self.flavour == "async":
            self._loop.close()


@pytest.fixture(scope="session", params=["sync", "async"])
def api(request):
    api = Api(request.param)
    yield api
    api.close()


@pytest.fixture
def make(api):
    """Makes sandboxes that end with the test."""
    made = []

    def create(**options):
        options.setdefault("memory_mb", 256)
        sandbox = api.Sandbox.create(**options)
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        with contextlib.suppress(SandboxError):
            sandbox.kill()


@pytest.fixture(scope="module")
def sandbox(api):
    """One sandbox for the tests of a file that leave nothing behind."""
    sandbox = api.Sandbox.create(timeout=1800)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def system(api):
    with api.System() as system:
        yield system


@pytest.fixture
def scoped_key(system):
    """Makes keys with few scopes, which end with the test."""
    made = []

    def create(*scopes):
        key = system.create_api_key("test", scopes)
        made.append(key.id)
        return key.key

    yield create
    for key_id in made:
        system.revoke_api_key(key_id)
