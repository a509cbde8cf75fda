"""Says when a cluster's nodes come and go, and which rooms (placement groups) are asked for and not yet given.

Given the cluster's address and the label that tells its nodes apart; prints a line for each change, until it is ended:
    python arrivals.py 127.0.0.1:6379 raylign-node
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

LOOK_EVERY_S = 0.2
GIVEN = ("CREATED", "REMOVED")


def main(address: str, label: str) -> None:
    import ray
    from ray.util import placement_group_table

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    before = None
    while True:
        here = Counter(each["Labels"].get(label, "head") for each in ray.nodes() if each["Alive"])
        rooms = placement_group_table().values()
        asked = sorted(room["name"] or "learner" for room in rooms if room["state"] not in GIVEN)
        if (now := {"nodes": here, "asked": asked}) != before:
            print(json.dumps({"at": round(time.monotonic(), 2), **now}), flush=True)
            before = now
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
