#!lua flags=allow-oom
-- purge: forget a study with everything of it, whatever its state. Workers that run samples of it hear that they are lost.
--
-- KEYS[1] root; ARGV[1] study.
-- Returns 'ok', 'more' (keys are left: call again, or leave the rest to any worker), or 'gone'. Invariant: from here on every
-- other move answers `gone` for the study, and it can't be committed again; its last key goes with the last piece of todo.
-- Idempotent. Cost: O(steps), its keys are deleted in pieces.

local s = ARGV[1]
local key = study_key(s)
-- A study of the list may have lost its hash.
if call('EXISTS', key) == 1 or call('ZSCORE', root .. 'studies', s) then
  forget_study(s)
else
  local a = unpacked(call('LPOP', key .. ':todo'))
  if not a then
    -- Laid down, and not committed: nor is it by a request that is still on its way.
    call('UNLINK', key .. ':plan', key .. ':past')
    return 'gone'
  end
  actions[1] = {s = s, a = a}
end
finish_move()
if call('EXISTS', key .. ':todo') == 1 then return 'more' end
call('ZREM', root .. 'todo', s)
return 'ok'
