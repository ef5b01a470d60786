-- reclaim: put back what dead workers owned.
--
-- ARGV[1] worker that sweeps.
-- Returns msgpack [[worker removed, …], is_outage, sweep_in_ms]; sweep_in_ms -1: another worker sweeps now.
-- Invariants: nobody expires by an outage. If nobody swept or beat for longer than half a worker's lease, or the clock was set
-- back, that worker could not have beaten: its lease begins anew. A range that was lost is put for anyone, losses + 1;
-- at `max_losses` a single sample is dead. Not counted when the worker was draining or three died within one lease.
-- And no study waits for ever that lost a key: see look_after.
-- Idempotent. Cost: at most 20 workers or 100 claims a call, 16 studies, and their streams; in an outage, O(workers).

local DEFAULT_LEASE_MS = 30000

local function extreme_lease(m, rank)
  local lease_ms = lenient(space.call('ZRANGE', names.leases(m.root), rank, rank, 'WITHSCORES')[2])
  return lease_ms > 0 and lease_ms or DEFAULT_LEASE_MS
end

-- Gives a new lease to all who could not have beaten. Returns 1 if somebody was there to see the outage: who came after a time
-- without any worker was not.
local function excuse_all(m, gap)
  local is_outage, now = 0, clock.now_ms(m)
  local leases = space.call('ZRANGE', names.leases(m.root), 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    local w, lease_ms = leases[i], lenient(leases[i + 1])
    if m.is_set_back or gap > lease_ms / 2 then
      redis.call('ZADD', names.workers(m.root), 'XX', int(now + lease_ms), w)
      local started = lenient(space.call('HGET', names.worker(m.root, w), 'started_at_ms') or now)
      if m.is_set_back or (m.swept_ms > 0 and started <= m.swept_ms) then is_outage = 1 end
    end
  end
  return is_outage
end

-- All deaths first: whoever died together is excused together.
local function note_deaths(m, expired)
  local facts, key, now = {}, names.deaths(m.root), clock.now_ms(m)
  for i, dead in ipairs(expired) do
    facts[i] = space.fields(names.worker(m.root, dead), {'is_draining', 'ends_at_ms', 'lease_ms'})
    space.call('ZADD', key, int(now), dead)
  end
  if #expired > 0 then
    local longest = extreme_lease(m, -1)
    redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now - longest))
    redis.call('PEXPIRE', key, int(longest))
  end
  return facts
end

local function remove_dead(m)
  local now = clock.now_ms(m)
  local expired = space.call('ZRANGE', names.workers(m.root), '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 20)
  local facts, removed, most = note_deaths(m, expired), {}, ITEMS / 2
  for i, dead in ipairs(expired) do
    local lease_ms, ends_at = lenient(facts[i].lease_ms or DEFAULT_LEASE_MS), lenient(facts[i].ends_at_ms)
    local deaths = redis.call('ZCOUNT', names.deaths(m.root), int(now - lease_ms), '+inf')
    local is_excused = facts[i].is_draining == '1' or (ends_at > 0 and ends_at <= now) or deaths >= 3
    local is_gone
    is_gone, most = workers.remove(m, dead, is_excused and 0 or 1, most, true)
    if is_gone then removed[#removed + 1] = dead end
  end
  return removed
end

-- Does any worker hold a claim of the study? Asked only of one of which nothing else is there, and seldom: O(claims).
local function has_claims(m, s)
  for _, w in ipairs(space.call('ZRANGE', names.workers(m.root), 0, -1)) do
    for _, claim in ipairs(space.call('HKEYS', names.worker_claims(m.root, w))) do
      if claims.study_of(claim) == s then return true end
    end
  end
  return false
end

-- What a study waits for besides its claims is named in keys of the namespace, which are made anew from it if they lost it.
-- Returns whether there is such a thing.
local function has_more(m, st)
  local is_there, s = false, st.id
  if redis.call('EXISTS', names.study_todo(m.root, s)) == 1 then
    space.call('ZADD', names.todo(m.root), 'NX', int(clock.now_ms(m)), s)
    is_there = true
  end
  if studies.state(st) ~= 'running' then return is_there end
  local due = redis.call('ZRANGE', names.retries(m.root, s), 0, 0, 'WITHSCORES')[2]
  if due then
    space.call('ZADD', names.later(m.root), 'NX', due, s)
    is_there = true
  end
  local part = 0
  local streams = plan.streams(m, st, part)
  if not streams then error('a missing part of its plan', 0) end
  while streams do
    for _, pair in ipairs(streams) do
      if redis.call('XLEN', names.stream(m.root, pair[1], s, pair[2])) > 0 then
        local turn = clock.next_turn(m, studies.priority(st))
        space.call('ZADD', names.queue(m.root, pair[1]), 'NX', turn, s .. ':' .. pair[2])
        is_there = true
      end
    end
    part = part + 1
    streams = plan.streams(m, st, part)
  end
  return is_there
end

-- What nobody may ever come by, so that only a sweep can tell: a study whose hash was deleted from outside, or says nothing that
-- can be; one that runs, and of which nothing is ready, claimed, to be retried or to be done, so that it can't come to its end;
-- and one that waits for the end of a study that has ended.
local function look_after(m, st)
  local hash = st.hash
  counters.fetch(hash, {'state', 'running', 'is_held', 'after', 'claims_seen_ms'})
  local state = studies.state(st)
  if state ~= 'running' and state ~= 'stopping' then
    -- The plan goes before the hash of one that has ended. So a study with a plan had not.
    if not state and redis.call('EXISTS', names.plan(m.root, st.id)) == 1 then error('a missing state', 0) end
    return
  end
  local after = counters.text(hash, 'after')
  if counters.get(hash, 'is_held') == 1 and after and after ~= '' and studies.has_ended(m, after) then
    counters.set(hash, 'is_held', 0)
    counters.set(hash, 'after', '')
    studies.plan(m, st, 'rescore', 0)
  end
  plan.step(m, st, 0)
  if has_more(m, st) then return end
  local now, is_running = clock.now_ms(m), counters.get(hash, 'running') > 0
  if is_running and now - counters.get(hash, 'claims_seen_ms') < CLAIMS_LOOK_MS then return end
  if is_running and has_claims(m, st.id) then return redis.call('HSET', hash.key, 'claims_seen_ms', int(now)) end
  -- Of one that is stopping, the last claim may have been lost with its worker's account.
  if state == 'stopping' then return studies.finish(m, st) end
  error('a missing task', 0)
end

-- A study of which nothing is wrong is not to suffer if the server refuses a call: it is looked at again by a later sweep.
local function look(m, st)
  local is_done, problem = pcall(look_after, m, st)
  if is_done then return end
  local text = text_of(problem)
  local is_refused = string.find(text, '^%u+ ') and not string.find(text, 'WRONGTYPE', 1, true)
  if not is_refused or st.hash.is_touched then error(problem, 0) end
end

function verbs.reclaim(m, args)
  local w, now, shortest = args[1], clock.now_ms(m), extreme_lease(m, 0)
  local gap = now - m.swept_ms
  local is_outage = (gap > shortest / 2 or m.is_set_back) and excuse_all(m, gap) or 0
  clock.set(m, 'swept_ms', int(now), 'is_set_back', 0)
  local removed = remove_dead(m)
  todo.finish(m)
  -- Any of them: in a few sweeps, all.
  for _, s in ipairs(space.call('ZRANDMEMBER', names.studies(m.root), STUDIES_MOST)) do
    protect(m, s, look, studies.of(m, s))
  end
  todo.finish(m)
  local sweep_ms, other = math.max(50, math.floor(shortest / 8)), clock.sweeper(m)
  if other and other ~= w then return cmsgpack.pack({removed, is_outage, -1}) end
  clock.sweep(m, w, lenient(space.call('ZSCORE', names.leases(m.root), w)), sweep_ms)
  return cmsgpack.pack({removed, is_outage, sweep_ms})
end
