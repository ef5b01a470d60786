-- hold: nothing more of a study is claimed until it is released; what runs goes on, and what it makes ready waits.
--
-- ARGV[1] study, [2] 1 to hold, 0 to release.
-- Returns 'ok', 'gone', or 'ended'. Idempotent. Cost: O(streams of the study), in pieces.

-- Changes a study that has not ended. Returns ok, gone or ended.
local function change(m, st, field, value, is_rescored)
  local state = studies.state(st)
  if not state then return 'gone' end
  if not studies.is_unfinished(st) then return 'ended' end
  counters.set(st.hash, field, value)
  if is_rescored then studies.plan(m, st, 'rescore', 0) end
  return 'ok'
end

function verbs.hold(m, args)
  local answer = protect(m, args[1], change, studies.of(m, args[1]), 'is_held', args[2], args[2] == '0')
  todo.finish(m)
  return answer or 'ended'
end

-- prioritize: a study's samples are claimed before those of studies with a lower priority, from now on.
--
-- ARGV[1] study, [2] priority, an integer; 0 is what studies have that nobody gave one.
-- Returns, promises and cost: as hold.

function verbs.prioritize(m, args)
  local answer = protect(m, args[1], change, studies.of(m, args[1]), 'priority', args[2], true)
  todo.finish(m)
  return answer or 'ended'
end
