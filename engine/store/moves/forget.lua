#!lua flags=allow-oom
-- forget: remove a study that has ended from the server, with its counters. Its workspace stays, and can be restarted.
--
-- KEYS[1] root; ARGV[1] study.
-- Returns 'ok', 'gone', or 'busy' (it has not ended). Idempotent. Cost: O(steps), its keys are deleted in pieces.

local s = ARGV[1]
local state = call('HGET', study_key(s), 'state')
if not state then return 'gone' end
if state == 'running' or state == 'stopping' then return 'busy' end
forget_study(s)
finish_move()
return 'ok'
