-- The last part of every move, which stands before it as the function `move`: what becomes of a move of which a call fails.
-- Nothing can fail after a first write but for keys that were damaged from outside (of another type, say), and then what was
-- written stays: a range may be in no stream, or counted nowhere. Nobody could tell, and the study would never end. So the
-- studies that the move worked on end as failed, with that reason, as they do when their plan is lost; the journal has the
-- account, and `mrun restart` goes on with it. Where nothing is said of a study, what its end left over is cleaned again.

local is_done, answer = pcall(move)
-- Studies with a damaged key, which was deleted (see keys.lua): the move was done for the others as ever.
if is_done and next(damaged) then
  local is_ended, why = pcall(function()
    for s in pairs(damaged) do fail_planless(s) end
    finish_move()
  end)
  if not is_ended then is_done, answer = false, why end
end
if is_done then return answer end
local problem = type(answer) == 'table' and answer.err or tostring(answer)

local function give_up(s)
  local key = study_key(s)
  local state = call('HGET', key, 'state')
  if state == 'running' or state == 'stopping' then
    local why = 'the server could not do all of a change; `mrun restart` with its workspace goes on with it: ' .. problem
    call('HSET', key, 'state', 'failed', 'outcome', 'failed', 'why', why, 'ended_at_ms', int(wall_ms()))
    call('XADD', root .. 'events', 'MAXLEN', '~', 1000, '*', 'study', s, 'state', 'failed')
  end
  if not state then call('ZREM', root .. 'studies', s) end
  call('RPUSH', key .. ':todo', cmsgpack.pack({'wake'}), cmsgpack.pack({'clean', state and 'ended' or 'purged', 0}))
  call('ZADD', root .. 'todo', 'NX', int(now_ms()), s)
end

-- pcall: what broke the move may break this, too; for the other studies it is done all the same.
for s in pairs(worked_on) do pcall(give_up, s) end
return redis.error_reply(problem)
