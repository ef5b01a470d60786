-- beat: a worker's sign of life; and its way to be known, to hear of what it lost, and of what is asked of it.
--
-- ARGV[1] worker, [2] msgpack BeatRequest (records.py): lease_ms, claims, highest claim number seen as text, is_draining, facts
--   as [field, value, …] or [], milliseconds until its allocation ends or -1: read with facts only. `facts` holds at least
--   queues (a,b,c) and slots.
-- Returns msgpack [status, [claim lost, …], [claim to kill, …], request, sweep_in_ms, due_ms]:
--   status       ok | unknown (no lease: beat again with facts)
--   lost         not this worker's any more: kill, settle nothing
--   kill         of a study whose running samples are to be stopped: kill, settle as cancelled
--   request      '' | drain
--   sweep_in_ms  > 0: this worker sweeps, and calls `reclaim` so often; -1: another does
--   due_ms       milliseconds until the next retry, or -1
-- Invariant: a claim that the server has for this worker and that the worker does not list was never received, if its number
-- is not above the highest seen: it is put back. Idempotent. Cost: O(claims held) + one piece of todo.

-- What is true of a claim that the worker lists: lost, kill, or nothing to say.
local function look_at(m, st, w, claim)
  counters.fetch(st.hash, {'state', 'kill'})
  if not studies.is_unfinished(st) then
    claims.finish(m, w, claim)
    return 'lost'
  end
  return studies.state(st) == 'stopping' and counters.get(st.hash, 'kill') == 1 and 'kill' or 'ok'
end

-- Compares what the worker lists with what the server has.
local function compare(m, w, listed, highest)
  local found, is_listed, is_known = {lost = {}, kill = {}, ok = {}}, {}, {}
  local known = space.call('HKEYS', names.worker_claims(m.root, w))
  for _, claim in ipairs(known) do is_known[claim] = true end
  for _, claim in ipairs(listed) do
    is_listed[claim] = true
    local s = claims.study_of(claim)
    local word = is_known[claim] and protect(m, s, look_at, studies.of(m, s), w, claim) or 'lost'
    table.insert(found[word], claim)
  end
  for _, claim in ipairs(known) do
    if not is_listed[claim] and lenient(string.match(claim, '^%d+')) <= highest then
      claims.return_whole(m, w, claim, 0)
    end
  end
  return found
end

-- It was reclaimed, or is new; it owns nothing, and what it may still have is for others.
local function register(m, w, facts, left_ms)
  clock.check_layout(m)
  workers.remove(m, w, 0, ITEMS, true)
  local worker, now = names.worker(m.root, w), clock.now_ms(m)
  redis.call('PERSIST', worker)
  redis.call('HSET', worker, 'started_at_ms', int(now), 'ends_at_ms', int(left_ms < 0 and 0 or now + left_ms), unpack(facts))
  local own = space.fields(worker, {'queues', 'slots'})
  for queue in workers.queues(own.queues) do space.count(names.slots(m.root), queue, lenient(own.slots)) end
end

-- One worker sweeps, that with the longest lease: four times in the shortest lease's half, so that a dead one is found in time,
-- and an outage is told from a death. While the sweeper is dead, beats show that the server is there; a gap that is long
-- already is left for the next sweep to see.
local function keep_swept(m, w, lease_ms)
  local shortest = lenient(space.call('ZRANGE', names.leases(m.root), 0, 0, 'WITHSCORES')[2])
  local now = clock.now_ms(m)
  if now - m.swept_ms <= shortest / 2 and not m.is_set_back then clock.set(m, 'swept_ms', int(now)) end
  local sweep_ms = math.max(50, math.floor(shortest / 8))
  if not clock.is_to_sweep(m, w, lease_ms) then return -1 end
  clock.sweep(m, w, lease_ms, sweep_ms)
  return sweep_ms
end

function verbs.beat(m, args)
  local w, request = args[1], cmsgpack.unpack(args[2])
  local lease_ms, facts, worker = request[BeatRequest.lease_ms], request[BeatRequest.facts], names.worker(m.root, w)
  local known = space.fields(worker, {'lease_ms', 'request'})
  local is_known = known.lease_ms
  if not is_known and #facts == 0 then return cmsgpack.pack({'unknown', {}, {}, '', -1, -1}) end
  if not is_known then
    register(m, w, facts, request[BeatRequest.time_left_ms])
    known.request = false
  end
  workers.renew(m, w, lease_ms)
  space.call('ZADD', names.leases(m.root), int(lease_ms), w)
  redis.call('HSET', worker, 'lease_ms', int(lease_ms), 'is_draining', request[BeatRequest.is_draining] and 1 or 0)
  local found = compare(m, w, request[BeatRequest.claims], tonumber(request[BeatRequest.highest]))
  local sweep_in_ms = keep_swept(m, w, lease_ms)
  m.is_resuming = true
  local due_ms = retries.put_due(m)
  todo.finish(m)
  return cmsgpack.pack({'ok', found.lost, found.kill, known.request or '', sweep_in_ms, due_ms})
end
