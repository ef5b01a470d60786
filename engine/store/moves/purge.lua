#!lua flags=allow-oom
-- purge: forget a study with everything of it, whatever its state. Workers that run samples of it hear that they are lost.
--
-- KEYS[1] root; ARGV[1] study.
-- Returns 'ok', or 'gone'. Invariant: from here on every other move answers `gone` for the study; its last key goes with the
-- last piece of todo. Idempotent. Cost: O(steps), its keys are deleted in pieces.

local s = ARGV[1]
local key = study_key(s)
if call('EXISTS', key) == 0 then return 'gone' end
for i = 0, tonumber(call('HGET', key, 'step_count') or 0) - 1 do call('UNLINK', step_key(s, i)) end
call('UNLINK', key, key .. ':todo', key .. ':reasons')
call('ZREM', root .. 'studies', s)
call('ZREM', root .. 'todo', s)
local ended = call('EXISTS', key .. ':plan') == 0
if not ended then plan_action(s, 'clean', 'purged', 0) end
finish_move()
return 'ok'
