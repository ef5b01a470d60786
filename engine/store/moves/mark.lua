#!lua flags=allow-oom
-- mark: a write and nothing else, for WAITAOF and WAIT to wait for.
--
-- KEYS[1] `mark`. It stands without the prelude, in one EVAL: the wait follows on the same connection.
-- Returns OK. Also on a server that is full, as settle, whose outcome is waited for. Idempotent. Cost: O(1).

return redis.call('SET', KEYS[1], '', 'EX', 60)
