-- Retries, and when they are due. Beyond LATER_MOST of a study they wait as bits, by the time they are due.

local retries = {}

-- How many samples of an instance that were lost are ready: claims of the others are short meanwhile.
function retries.count_lost(instance, task, by)
  if task.losses > 0 then counters.add(instance.hash, 'lost', by) end
end

-- A retry that waits as a bit: its member is `*<when> <name of scattered samples>`.
local function put_bits(m, st, instance, task, delay_ms)
  local width = math.max(LATE_MS, math.floor(delay_ms / 8))
  local due_ms = (math.floor((clock.now_ms(m) + delay_ms) / width) + 1) * width
  each_name(instance, task, function(name, a, b)
    local member = '*' .. int(due_ms) .. ' ' .. name
    bits.fill(names.retry_bits(m.root, st.id, member), a, b, 1)
    redis.call('ZADD', names.retries(m.root, st.id), int(due_ms), member)
  end)
  return due_ms
end

function retries.put(m, st, instance, task)
  m.has_retries = true
  local key, due_ms = names.retries(m.root, st.id), clock.now_ms(m) + instance.delay_ms
  if redis.call('ZCARD', key) >= LATER_MOST then
    due_ms = put_bits(m, st, instance, task, instance.delay_ms)
  else
    redis.call('ZADD', key, int(due_ms), task_text(instance, task))
  end
  space.call('ZADD', names.later(m.root), 'LT', int(due_ms), st.id)
end

local function count_due(st, instance, task, samples)
  counters.count(st, instance, 'retrying', -samples)
  counters.count(st, instance, 'ready', samples)
  retries.count_lost(instance, task, samples)
end

-- Samples of a member that stands for bits are ready: its bits join the scattered ones of the same name.
local function release_bits(m, st, member)
  local name = string.match(member, '^%*%d+ (.+)$')
  local task = parse_name(name or '')
  local instance = plan.instance(m, st, task.instance, task.step)
  local waiting, key = names.retry_bits(m.root, st.id, member), names.scattered_bits(m.root, st.id, name)
  local samples = redis.call('BITCOUNT', waiting)
  if samples == 0 then error('missing retries', 0) end
  count_due(st, instance, task, samples)
  if redis.call('EXISTS', key) == 1 then
    redis.call('BITOP', 'OR', key, key, waiting)
    redis.call('UNLINK', waiting)
  else
    redis.call('RENAME', waiting, key)
  end
  count_scattered(m, st, instance, name, samples)
end

local function release_range(m, st, member)
  local task = ready.parse(member)
  local instance = plan.instance(m, st, task.instance, task.step)
  if not plan.has(instance, task.lo, task.hi) then error('a damaged retry', 0) end
  count_due(st, instance, task, task.hi - task.lo)
  ready.put(m, st, instance, task)
end

-- What is stopping retries nothing more; its keys go with it.
local function release_due(m, st)
  local key, now = names.retries(m.root, st.id), int(clock.now_ms(m))
  if studies.state(st) ~= 'running' then return end
  for _, member in ipairs(redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, 64)) do
    if string.sub(member, 1, 1) == '*' then release_bits(m, st, member) else release_range(m, st, member) end
    redis.call('ZREM', key, member)
  end
  return redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
end

-- Milliseconds until the next retry of any study is due, or -1.
function retries.due_ms(m)
  local first = space.call('ZRANGE', names.later(m.root), 0, 0, 'WITHSCORES')
  return first[2] and math.max(0, lenient(first[2]) - clock.now_ms(m)) or -1
end

-- Puts the retries of one study that are due, a bounded number; returns as due_ms.
function retries.put_due(m)
  local later = names.later(m.root)
  local s = space.call('ZRANGE', later, '-inf', int(clock.now_ms(m)), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if s then
    local next_ms = protect(m, s, release_due, studies.of(m, s))
    if next_ms then redis.call('ZADD', later, next_ms, s) else redis.call('ZREM', later, s) end
  end
  return retries.due_ms(m)
end
