-- purge: forget a study with everything of it, whatever its state. Workers that run samples of it hear that they are lost.
--
-- ARGV[1] study.
-- Returns 'ok', 'more' (keys are left: call again, or leave the rest to any worker), or 'gone'. Invariant: from here on every
-- other move answers `gone` for the study, and it can't be committed again; its last key goes with the last piece of todo.
-- Idempotent. Cost: O(1), its keys are deleted in pieces.

function verbs.purge(m, args)
  local s = args[1]
  local st, key = studies.of(m, s), names.study_todo(m.root, s)
  if redis.call('EXISTS', names.study(m.root, s)) == 1 or space.call('ZSCORE', names.studies(m.root), s) then
    studies.forget(m, st)
  else
    local raw = space.call('LPOP', key)
    -- Laid down, and not committed: nor is it by a request that is still on its way.
    if not raw then redis.call('UNLINK', names.plan(m.root, s), names.past(m.root, s)) end
    if not raw then return 'gone' end
    local is_read, words = pcall(cmsgpack.unpack, raw)
    if is_read and type(words) == 'table' and work[words[1]] then m.actions[1] = {study = s, words = words} end
  end
  todo.finish(m)
  if redis.call('EXISTS', key) == 1 then return 'more' end
  space.call('ZREM', names.todo(m.root), s)
  return 'ok'
end

-- forget: remove a study that has ended from the server, with its counters. Its workspace stays, and can be restarted.
--
-- ARGV[1] study.
-- Returns 'ok', 'gone', or 'busy' (it has not ended). Idempotent. Cost: O(1), its keys are deleted in pieces.

function verbs.forget(m, args)
  local st, key = studies.of(m, args[1]), names.study(m.root, args[1])
  local is_known = redis.call('EXISTS', key) == 1
  if is_known and redis.call('TYPE', key).ok == 'hash' and studies.is_unfinished(st) then return 'busy' end
  if not is_known then return 'gone' end
  studies.forget(m, st)
  todo.finish(m)
  return 'ok'
end
