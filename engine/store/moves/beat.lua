#!lua flags=allow-oom
-- beat: a worker's sign of life; and its way to be known, to hear of what it lost, and of what is asked of it.
--
-- KEYS[1] root; ARGV[1] worker, [2] msgpack [lease_ms, [claim held, …] as text, highest claim number seen as text,
--   is_draining, facts as [field, value, …] or [], milliseconds until its allocation ends or -1: read with facts only].
--   `facts` holds at least queues (a,b,c) and slots.
-- Returns msgpack [status, [claim lost, …], [claim to kill, …], request, sweep_in_ms, due_ms]:
--   status       ok | unknown (no lease: beat again with facts)
--   lost         not this worker's any more: kill, settle nothing
--   kill         of a study whose running samples are to be stopped: kill, settle as cancelled
--   request      '' | drain
--   sweep_in_ms  > 0: this worker tends the server, and calls `reclaim` so often; -1: another does
--   due_ms       milliseconds until the next retry, or -1
-- Invariant: a claim that the server has for this worker and that the worker does not list was never received, if its number
-- is not above the highest seen: it is put back. Idempotent. Cost: O(claims held) + one piece of todo.

local w = ARGV[1]
local request = cmsgpack.unpack(ARGV[2])
local lease_ms, listed, highest, is_draining, facts = request[1], request[2], tonumber(request[3]), request[4], request[5]
local left_ms = request[6]
local worker = root .. 'worker:' .. w
local now = now_ms()
local is_known = call('ZSCORE', root .. 'workers', w)
if not is_known and #facts == 0 then return cmsgpack.pack({'unknown', {}, {}, '', -1, -1}) end

if not is_known then
  -- It was reclaimed, or is new; it owns nothing, and what it may still have is for others.
  remove_worker(w, 0, ITEMS, true)
  call('PERSIST', worker)
  call('HSET', worker, 'started_at_ms', int(now), 'ends_at_ms', int(left_ms < 0 and 0 or now + left_ms), unpack(facts))
  local own = call('HMGET', worker, 'queues', 'slots')
  for q in string.gmatch(own[1] or '', '[^,]+') do call('HINCRBY', root .. 'slots', q, own[2]) end
end
call('ZADD', root .. 'workers', int(now + lease_ms), w)
call('ZADD', root .. 'leases', int(lease_ms), w)
call('HSET', worker, 'lease_ms', int(lease_ms), 'is_draining', is_draining and 1 or 0)

local lost, kill, is_listed = {}, {}, {}
for _, claim in ipairs(listed) do
  is_listed[claim] = true
  local r = read_claim(w, claim)
  local study = r and call('HMGET', study_key(r.s), 'state', 'kill')
  if not r then
    lost[#lost + 1] = claim
  elseif study[1] ~= 'running' and study[1] ~= 'stopping' then
    end_claim(w, claim, r)
    lost[#lost + 1] = claim
  elseif study[1] == 'stopping' and study[2] == '1' then
    kill[#kill + 1] = claim
  end
end
local is_damaged = false
for _, claim in ipairs(call('HKEYS', held_key(w))) do
  if string.sub(claim, 1, 1) ~= '=' and not is_listed[claim] and tonumber(claim) <= highest then
    local r = read_claim(w, claim)
    if r then give_back(w, claim, r, r.lo, r.losses) else is_damaged = true end
  end
end
if is_damaged then fail_damaged(w) end

-- One worker tends, that with the longest lease: it sweeps four times in the shortest lease's half, so that a dead one is found
-- in time, and an outage is told from a death. While the tender is dead, beats show that the server is there; a gap that is
-- long already is left for the next sweep to see.
local shortest = tonumber(call('ZRANGE', root .. 'leases', 0, 0, 'WITHSCORES')[2])
local gap = now - (tonumber(call('GET', root .. 'swept')) or 0)
if gap <= shortest / 2 then call('SET', root .. 'swept', int(now)) end
local sweep_ms = max(50, floor(shortest / 8))
local sweep_in_ms = -1
if best_tender(w) == w then
  tend(w, sweep_ms)
  sweep_in_ms = sweep_ms
end
is_resuming = true
local due_ms = put_due()
finish_move()
return cmsgpack.pack({'ok', lost, kill, call('HGET', worker, 'request') or '', sweep_in_ms, due_ms})
