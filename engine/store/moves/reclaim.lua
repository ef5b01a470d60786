#!lua flags=allow-oom
-- reclaim: put back what dead workers owned.
--
-- KEYS[1] root; ARGV[1] worker that sweeps.
-- Returns msgpack [[worker removed, …], is_outage, sweep_in_ms]; sweep_in_ms -1: another worker tends now.
-- Invariants: nobody expires by an outage. If nobody swept for longer than half a worker's lease, or time went backwards,
-- that worker could not have beaten: its lease begins anew. A range that was lost is put for anyone, losses + 1; at
-- `max_losses` a single sample is dead. Not counted when the worker was draining or three died within one lease.
-- Idempotent. Cost: at most 20 workers or 100 claims a call, but for an outage, O(workers).

local w = ARGV[1]
local now = now_ms()
local swept = tonumber(call('GET', root .. 'swept') or 0)
local gap = now - swept
local leases = call('ZRANGE', root .. 'leases', 0, -1, 'WITHSCORES')
local shortest = tonumber(leases[2] or 30000)

local is_outage = 0
if gap < 0 or gap > shortest / 2 then
  for i = 1, #leases, 2 do
    local lease_ms = tonumber(leases[i + 1])
    if gap < 0 or gap > lease_ms / 2 then
      call('ZADD', root .. 'workers', 'XX', int(now + lease_ms), leases[i])
      is_outage = 1
    end
  end
end
call('SET', root .. 'swept', int(now))

local removed = {}
for _, dead in ipairs(call('ZRANGE', root .. 'workers', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 20)) do
  local facts = call('HMGET', root .. 'worker:' .. dead, 'is_draining', 'ends_at_ms', 'lease_ms')
  local lease_ms = tonumber(facts[3] or 30000)
  call('ZADD', root .. 'deaths', int(now), dead)
  call('ZREMRANGEBYSCORE', root .. 'deaths', '-inf', int(now - lease_ms))
  local ends_at = tonumber(facts[2] or 0)
  local is_excused = facts[1] == '1' or (ends_at > 0 and ends_at <= now) or call('ZCARD', root .. 'deaths') >= 3
  if remove_worker(dead, is_excused and 0 or 1) == 1 then removed[#removed + 1] = dead end
  finish_move()
end
local sweep_ms = max(50, floor(shortest / 8))
local tender = call('GET', root .. 'tend')
if tender and tender ~= w then sweep_ms = -1 else call('SET', root .. 'tend', w, 'PX', int(sweep_ms * 2)) end
return cmsgpack.pack({removed, is_outage, sweep_ms})
