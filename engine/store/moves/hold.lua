#!lua flags=allow-oom
-- hold: nothing more of a study is claimed until it is released; what runs goes on, and what it makes ready waits.
--
-- KEYS[1] root; ARGV[1] study, [2] 1 to hold, 0 to release.
-- Returns 'ok', 'gone', or 'ended'. Idempotent. Cost: O(streams of the study), in pieces.

local s, is_held = ARGV[1], ARGV[2]
local state = call('HGET', study_key(s), 'state')
if not state then return 'gone' end
if state ~= 'running' and state ~= 'stopping' then return 'ended' end
call('HSET', study_key(s), 'is_held', is_held)
if is_held == '0' then plan_action(s, 'rescore', 0) end
finish_move()
return 'ok'
