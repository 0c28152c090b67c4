"""Ids that the client chooses."""

import re
import threading
import time

from nullspace._ulid import client_id, command_id, ulid


def test_form():
    assert re.fullmatch(r"cmd_[0-7][0-9a-hjkmnp-tv-z]{25}", command_id())
    # The server takes [A-Za-z0-9_-]{1,64}.
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", client_id())


def test_ids_ascend_and_hold_the_time():
    before = time.time_ns() // 1_000_000
    ids = [ulid() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    millis = 0
    for character in ids[0][:10]:
        millis = millis * 32 + alphabet.index(character)
    assert before <= millis <= before + 10_000


def test_threads_do_not_share_ids():
    ids = []
    threads = [threading.Thread(target=lambda: ids.extend(ulid() for _ in range(1_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8_000
