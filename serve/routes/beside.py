"""Work on bodies beside the event loop: few at a time, and none that waits for a client who has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_AT_ONCE = 2
"""What is begun cannot be stopped, and has several times its body in memory."""
_LARGE_BYTES = 1 << 16
"""Of a body that is worth a thread."""
_POOL = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="body")
_ROOM: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def beside(function: Callable[..., T], *arguments: Any) -> T:
    """What the function gives, from a thread. Cancelled while it waits for room, it is never called; later, its place is free once it ends."""
    loop = asyncio.get_running_loop()
    room = _ROOM.setdefault(loop, asyncio.Semaphore(_AT_ONCE))
    await room.acquire()
    work = loop.run_in_executor(_POOL, function, *arguments)
    work.add_done_callback(lambda _: room.release())
    try:
        return await asyncio.shield(work)
    finally:
        del work  # with what it raises it would be a ring, and a body stay until the next collection


async def if_large(size_bytes: int, function: Callable[..., T], *arguments: Any) -> T:
    """The same; here and now where it is little."""
    return function(*arguments) if size_bytes <= _LARGE_BYTES else await beside(function, *arguments)
