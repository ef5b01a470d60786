#!lua flags=allow-oom
-- prioritize: a study's samples are claimed before those of studies with a lower priority, from now on.
--
-- KEYS[1] root; ARGV[1] study, [2] priority, an integer; 0 is what studies have that nobody gave one.
-- Returns 'ok', 'gone', or 'ended'. Idempotent. Cost: O(streams of the study), in pieces.

local s = ARGV[1]
local state = call('HGET', study_key(s), 'state')
if not state then return 'gone' end
if state ~= 'running' and state ~= 'stopping' then return 'ended' end
call('HSET', study_key(s), 'priority', ARGV[2])
plan_action(s, 'rescore', 0)
finish_move()
return 'ok'
