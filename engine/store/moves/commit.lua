#!lua
-- commit: a staged study becomes real, in one move, and its first nodes claimable.
--
-- KEYS[1] root; ARGV[1] study, [2] how many fields its plan must have, [3…] field, value, … of `study:<s>`.
-- Returns 'committed' (also when it already was) or 'incomplete' (parts of the plan expired or are missing).
-- Invariant: before, nothing of the study can be claimed; after, all of it will be. Idempotent.
-- Cost: O(fields), and at most ITEMS roots; the rest goes to todo.

local s, fields = ARGV[1], tonumber(ARGV[2])
local key = study_key(s)
if call('EXISTS', key) == 1 then return 'committed' end
if call('HLEN', key .. ':plan') ~= fields then return 'incomplete' end
local old = call('ZRANGE', root .. 'studies', '-inf', int(now_ms() - KEEP_S * 1000), 'BYSCORE', 'LIMIT', 0, 10)

call('PERSIST', key .. ':plan')
call('HSET', key, 'state', 'running', 'running', 0, 'queued_at_ms', int(now_ms()), unpack(ARGV, 3))
call('ZADD', root .. 'studies', int(now_ms()), s)
for _, other in ipairs(old) do
  if call('EXISTS', study_key(other)) == 0 then call('ZREM', root .. 'studies', other) end
end
plan_action(s, 'roots', 0, 0)
finish_move()
return 'committed'
