#!lua flags=allow-oom
-- reclaim: put back what dead workers owned.
--
-- KEYS[1] root; ARGV[1] worker that sweeps.
-- Returns msgpack [[worker removed, …], is_outage, sweep_in_ms]; sweep_in_ms -1: another worker tends now.
-- Invariants: nobody expires by an outage. If nobody swept or beat for longer than half a worker's lease, or the clock was set
-- back, that worker could not have beaten: its lease begins anew. A range that was lost is put for anyone, losses + 1;
-- at `max_losses` a single sample is dead. Not counted when the worker was draining or three died within one lease.
-- And no study waits for ever that lost a key: see look_after.
-- Idempotent. Cost: at most 20 workers or 100 claims a call, 16 studies, and their streams; in an outage, O(workers).

-- Studies that one sweep looks at.
local STUDIES_MOST = 16

local w = ARGV[1]
local now = now_ms()
local swept = call('GET', root .. 'swept')
local is_set_back = swept == 'set back'
swept = tonumber(swept)
local gap = now - (swept or 0)
local shortest = tonumber(call('ZRANGE', root .. 'leases', 0, 0, 'WITHSCORES')[2] or 30000)

local is_outage = 0
if gap > shortest / 2 then
  local leases = call('ZRANGE', root .. 'leases', 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    local lease_ms = tonumber(leases[i + 1])
    if gap > lease_ms / 2 then
      call('ZADD', root .. 'workers', 'XX', int(now + lease_ms), leases[i])
      -- An outage is one for those who were there: not for who came after a time without any worker.
      local started = tonumber(call('HGET', root .. 'worker:' .. leases[i], 'started_at_ms') or now)
      if is_set_back or (swept and started <= swept) then is_outage = 1 end
    end
  end
end
call('SET', root .. 'swept', int(now))

local expired = call('ZRANGE', root .. 'workers', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 20)
-- All deaths first: whoever died together is excused together.
local facts = {}
for i, dead in ipairs(expired) do
  facts[i] = call('HMGET', root .. 'worker:' .. dead, 'is_draining', 'ends_at_ms', 'lease_ms')
  call('ZADD', root .. 'deaths', int(now), dead)
end
if #expired > 0 then
  local longest = tonumber(call('ZRANGE', root .. 'leases', -1, -1, 'WITHSCORES')[2] or 30000)
  call('ZREMRANGEBYSCORE', root .. 'deaths', '-inf', int(now - longest))
  call('PEXPIRE', root .. 'deaths', int(longest))
end
local removed, most = {}, ITEMS / 2
for i, dead in ipairs(expired) do
  local lease_ms, ends_at = tonumber(facts[i][3] or 30000), tonumber(facts[i][2] or 0)
  local deaths = call('ZCOUNT', root .. 'deaths', int(now - lease_ms), '+inf')
  local is_excused = facts[i][1] == '1' or (ends_at > 0 and ends_at <= now) or deaths >= 3
  local is_gone
  is_gone, most = remove_worker(dead, is_excused and 0 or 1, most, true)
  if is_gone then removed[#removed + 1] = dead end
end
finish_move()
-- Any of them: in a few sweeps, all. What is above is done; and of whom nothing is wrong is not to suffer if a call fails.
worked_on = {}
for _, s in ipairs(call('ZRANDMEMBER', root .. 'studies', STUDIES_MOST)) do
  local planned = #actions
  local is_done, problem = pcall(look_after, s)
  if #actions == planned then worked_on[s] = nil end
  if not is_done then error(problem, 0) end
end
finish_move()
local sweep_ms = max(50, floor(shortest / 8))
if (tender() or w) == w then tend(w, sweep_ms) else sweep_ms = -1 end
return cmsgpack.pack({removed, is_outage, sweep_ms})
