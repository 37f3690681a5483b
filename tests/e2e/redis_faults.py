"""A Redis that answers and refuses. Each is a generator: next() begins it, the second one ends it.

refusing = readonly(stack.redis)
next(refusing)
...
next(refusing, None)
"""

KEY = "chat:{main}"


def readonly(redis):
    # Of a master that is not there: nothing is copied from it.
    redis.call("REPLICAOF", "127.0.0.1", 1)
    yield
    redis.call("REPLICAOF", "NO", "ONE")


def out_of_memory(redis):
    redis.call("CONFIG", "SET", "maxmemory", 1)
    yield
    redis.call("CONFIG", "SET", "maxmemory", 0)


def no_auth(redis):
    with redis.open() as admin:
        admin.call("CONFIG", "SET", "requirepass", "changed")
        admin.call("CLIENT", "KILL", "TYPE", "normal")  # or they stay logged in
        yield
        admin.call("CONFIG", "SET", "requirepass", "")


def no_replicas(redis):
    redis.call("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    redis.call("CONFIG", "SET", "min-replicas-to-write", 0)


def wrong_type(redis):
    redis.transaction(["RENAME", KEY, "aside"], ["SET", KEY, "a string"])
    yield
    assert redis.call("GET", KEY) == "a string", "it is not ours to delete"
    redis.transaction(["DEL", KEY], ["RENAME", "aside", KEY])


# What the operator reads of each.
FAULTS = {
    readonly: "READONLY",
    out_of_memory: "OOM",
    no_auth: "NOAUTH",
    no_replicas: "NOREPLICAS",
    wrong_type: "WRONGTYPE",
}
