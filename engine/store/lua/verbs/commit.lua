-- commit: a staged study becomes real, in one move, and its first instances claimable.
--
-- ARGV[1] study, [2] how many fields its plan must have, [3] and its past, [4] the run of the study that it replaces, or '',
--   [5…] field, value, … of `study:<s>`.
-- Returns 'committed' (also when it already was), 'incomplete' (parts expired or are missing), or 'busy' (the run to be
--   replaced has not ended).
-- Invariant: before, nothing of the study can be claimed; after, all of it will be. Idempotent.
-- Cost: O(fields), and at most ITEMS roots; the rest goes to todo.

-- Studies of the list whose own key has expired; at most 10.
local function expired_studies(m)
  local expired, old = {}, int(clock.now_ms(m) - KEEP_S * 1000)
  for _, s in ipairs(space.call('ZRANGE', names.studies(m.root), '-inf', old, 'BYSCORE', 'LIMIT', 0, 10)) do
    if redis.call('EXISTS', names.study(m.root, s)) == 0 then expired[#expired + 1] = s end
  end
  return expired
end

-- Another server may have numbered the claims of earlier runs, by a clock that was ahead of ours. The journals of this run count
-- only if its claims have higher numbers. What no clock says before the year 2112 is not believed: numbers must not run out.
local function pass_number(m, st)
  local since = lenient(counters.text(st.hash, 'since'))
  clock.now_ms(m)
  if since > m.last_claim and since < 2^52 then m.last_claim, m.has_numbers = since, true end
end

-- Until the study that it is to come after has ended, it is held.
local function begin(m, st)
  local after = counters.text(st.hash, 'after')
  if after and after ~= '' and not studies.has_ended(m, after) then
    counters.set(st.hash, 'is_held', 1)
    redis.call('SADD', names.followers(m.root, after), st.id)
  elseif after and after ~= '' then
    counters.set(st.hash, 'after', '')
  end
  studies.plan(m, st, 'roots', 0, 0)
end

function verbs.commit(m, args)
  clock.check_layout(m)
  local s, replaced = args[1], args[4] ~= '' and studies.of(m, args[4])
  local key = names.study(m.root, s)
  if redis.call('EXISTS', key) == 1 then return 'committed' end
  if redis.call('HLEN', names.plan(m.root, s)) ~= tonumber(args[2])
    or redis.call('HLEN', names.past(m.root, s)) ~= tonumber(args[3]) then return 'incomplete' end
  local is_list_known = replaced and space.call('ZSCORE', names.studies(m.root), replaced.id)
  if replaced and redis.call('TYPE', names.study(m.root, replaced.id)).ok == 'hash' then
    if studies.is_unfinished(replaced) then return 'busy' end
    is_list_known = true
  end
  local expired = expired_studies(m)

  if is_list_known then studies.forget(m, replaced) end
  local st = studies.of(m, s)
  st.hash.is_touched = true
  redis.call('HSET', key, 'state', 'running', 'running', 0, 'queued_at_ms', int(clock.wall_ms(m)), unpack(args, 5))
  redis.call('PERSIST', names.plan(m.root, s))
  redis.call('PERSIST', names.past(m.root, s))
  space.call('ZADD', names.studies(m.root), int(clock.now_ms(m)), s)
  for _, other in ipairs(expired) do redis.call('ZREM', names.studies(m.root), other) end
  pass_number(m, st)
  protect(m, s, begin, st)
  todo.finish(m)
  return 'committed'
end
