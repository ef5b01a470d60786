-- cancel: nothing more of a study is claimed; its running samples are stopped, or let finish.
--
-- ARGV[1] study, [2] 1 to stop what runs, 0 to let it finish, [3] why, for people.
-- Returns msgpack [status, running]: status ok | gone | ended, and the number of samples that were running.
-- Idempotent. Cost: O(1), the streams are dropped in pieces.

local function cancel(m, st, is_kill, why)
  counters.fetch(st.hash, {'state', 'running'})
  local state = studies.state(st)
  if not state then return {'gone', 0} end
  if not studies.is_unfinished(st) then return {'ended', 0} end
  local running = counters.get(st.hash, 'running')
  if state == 'running' then
    studies.stop(m, st, 'cancelled', why, is_kill)
  elseif is_kill then
    counters.set(st.hash, 'kill', 1)
  end
  studies.plan(m, st, 'idle')
  return {'ok', running}
end

function verbs.cancel(m, args)
  local answer = protect(m, args[1], cancel, studies.of(m, args[1]), args[2] == '1', args[3]) or {'ended', 0}
  todo.finish(m)
  return cmsgpack.pack(answer)
end
