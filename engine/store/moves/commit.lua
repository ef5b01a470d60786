#!lua
-- commit: a staged study becomes real, in one move, and its first nodes claimable.
--
-- KEYS[1] root; ARGV[1] study, [2] how many fields its plan must have, [3] and its past, [4] the run of the study that it
--   replaces, or '', [5…] field, value, … of `study:<s>`.
-- Returns 'committed' (also when it already was), 'incomplete' (parts expired or are missing), or 'busy' (the run to be
--   replaced has not ended).
-- Invariant: before, nothing of the study can be claimed; after, all of it will be. Idempotent.
-- Cost: O(fields), and at most ITEMS roots; the rest goes to todo.

local s, fields, past_fields, replaced = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local key = study_key(s)
if call('EXISTS', key) == 1 then return 'committed' end
if call('HLEN', key .. ':plan') ~= fields or call('HLEN', key .. ':past') ~= past_fields then return 'incomplete' end
local replaced_state = replaced ~= '' and call('HGET', study_key(replaced), 'state')
if replaced_state == 'running' or replaced_state == 'stopping' then return 'busy' end
-- Another server may have numbered the claims of earlier runs, by a clock that was ahead of ours. The journals of this run count
-- only if its claims have higher numbers. What no clock says before the year 2112 is not believed: numbers must not run out.
local last, since = whole(call('GET', root .. 'claims')), 0
for i = 5, #ARGV, 2 do
  if ARGV[i] == 'since' then since = whole(ARGV[i + 1]) end
end
local old = call('ZRANGE', root .. 'studies', '-inf', int(now_ms() - KEEP_S * 1000), 'BYSCORE', 'LIMIT', 0, 10)

-- It may have lost its hash, and be in the list all the same.
if replaced_state or (replaced ~= '' and call('ZSCORE', root .. 'studies', replaced)) then forget_study(replaced) end
call('HSET', key, 'state', 'running', 'running', 0, 'queued_at_ms', int(wall_ms()), unpack(ARGV, 5))
worked_on[s] = true
if since > last and since < 2^52 then call('SET', root .. 'claims', int(since)) end
call('PERSIST', key .. ':plan')
call('PERSIST', key .. ':past')
call('ZADD', root .. 'studies', int(now_ms()), s)
for _, other in ipairs(old) do
  if call('EXISTS', study_key(other)) == 0 then call('ZREM', root .. 'studies', other) end
end
-- Until the study that it is to come after has ended, it is held.
local after = call('HGET', key, 'after')
local after_state = after and after ~= '' and call('HGET', study_key(after), 'state')
if after_state == 'running' or after_state == 'stopping' then
  call('HSET', key, 'is_held', 1)
  call('SADD', study_key(after) .. ':followers', s)
elseif after and after ~= '' then
  call('HSET', key, 'after', '')
end
plan_action(s, 'roots', 0, 0)
finish_move()
return 'committed'
