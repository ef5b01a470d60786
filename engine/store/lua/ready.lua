-- Ready samples: ranges that merge, in a stream for each queue, study and class; or bits, where ranges can't merge.

local ready = {}

-- A task is seven numbers: instance, step, first sample, one past the last sample, attempt, losses, resume.
local function task_text(instance, task)
  return instance.text .. ' ' .. instance.step_text .. ' ' .. int(task.lo) .. ' ' .. int(task.hi) .. ' ' .. task.attempt .. ' '
    .. task.losses .. ' ' .. task.resume
end

-- Scattered samples: those of a chunk of an instance, in one attempt, as bits. `scattered` counts them; as long as there are
-- any, one entry `*<name>` of the stream stands for them all.
local function scattered_name(instance, task, c)
  return instance.text .. ':' .. instance.step_text .. ':' .. int(c) .. ':' .. task.attempt .. ':' .. task.losses .. ':'
    .. task.resume
end

local function parse_name(name)
  local n, i, c, attempt, losses, resume = string.match(name, '^(%d+):(%d+):(%d+):(%d+):(%d+):(%d+)$')
  if not n then error('damaged samples that are ready', 0) end
  return {instance = tonumber(n), step = tonumber(i), base = tonumber(c) * SCATTERED_CHUNK, attempt = tonumber(attempt),
    losses = tonumber(losses), resume = tonumber(resume), name = name}
end

-- What an entry of a stream, or a retry, stands for. Raises if it is neither.
function ready.parse(text)
  if string.sub(text, 1, 1) == '*' then return parse_name(string.sub(text, 2)) end
  local n, i, lo, hi, attempt, losses, resume = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not n then error('damaged samples that are ready', 0) end
  return {instance = tonumber(n), step = tonumber(i), lo = tonumber(lo), hi = tonumber(hi), attempt = tonumber(attempt),
    losses = tonumber(losses), resume = tonumber(resume)}
end

-- Adds an entry to an instance's stream, names the stream in its queue, and lets workers hear of it. Returns the entry's id.
local function add_entry(m, st, instance, stream, text)
  local id = redis.call('XADD', stream, '*', 't', text)
  if not st.is_named[stream] then
    local queue, member = names.queue(m.root, instance.queue), st.id .. ':' .. int(instance.resource_class)
    st.is_named[stream] = true
    space.call('ZADD', queue, 'NX', clock.next_turn(m, studies.priority(st)), member)
  end
  space.ring(m, names.bell(m.root, instance.queue))
  return id
end

-- Ranges of an instance that nobody has claimed are found by their two ends: `<attempt>:<losses>:<resume>:<` and the first
-- sample, and with `>` one past the last. Each field holds the entry and the other end.
local function tag_of(task) return task.attempt .. ':' .. task.losses .. ':' .. task.resume .. ':' end

local function write_range(m, st, instance, stream, task)
  local tag = tag_of(task)
  local id = add_entry(m, st, instance, stream, task_text(instance, task))
  local lo, hi = int(task.lo), int(task.hi)
  redis.call('HSET', instance.ranges, tag .. '<' .. lo, id .. ' ' .. hi, tag .. '>' .. hi, id .. ' ' .. lo)
end

local function neighbour(text)
  if not text then return nil end
  local id, other = string.match(text, '^(%d+%-%d+) (%d+)$')
  if not id then error('a damaged range that is ready', 0) end
  return id, tonumber(other)
end

local function remove_entry(stream, id)
  if redis.call('XDEL', stream, id) == 0 then error('a missing range that is ready', 0) end
end

-- Calls `on_chunk` with the name of each group of scattered samples that a range is in, and with the bits [a, b) there.
local function each_name(instance, task, on_chunk)
  local lo = task.lo
  while lo < task.hi do
    local c = math.floor(lo / SCATTERED_CHUNK)
    local base = c * SCATTERED_CHUNK
    local stop = math.min(task.hi, base + SCATTERED_CHUNK)
    on_chunk(scattered_name(instance, task, c), lo - base, stop - base)
    lo = stop
  end
end

local function count_scattered(m, st, instance, name, by)
  local key = names.scattered(m.root, st.id)
  if redis.call('HINCRBY', key, name, by) == by then add_entry(m, st, instance, instance.stream, '*' .. name) end
end

local function put_scattered(m, st, instance, task)
  each_name(instance, task, function(name, a, b)
    bits.fill(names.scattered_bits(m.root, st.id, name), a, b, 1)
    count_scattered(m, st, instance, name, b - a)
  end)
end

-- Makes [task.lo, task.hi) claimable, joined with the ranges that it touches. The caller has counted it, and needs `task` no more.
function ready.put(m, st, instance, task)
  local stream, key, tag = instance.stream, instance.ranges, tag_of(task)
  local first, last = int(task.lo), int(task.hi)
  local found = redis.call('HMGET', key, tag .. '>' .. first, tag .. '<' .. last)
  local before, from = neighbour(found[1])
  local after, upto = neighbour(found[2])
  if before then
    remove_entry(stream, before)
    redis.call('HDEL', key, tag .. '>' .. first)
    task.lo = from
  end
  if after then
    remove_entry(stream, after)
    redis.call('HDEL', key, tag .. '<' .. last)
    task.hi = upto
  end
  if not before and not after and redis.call('HLEN', key) > 2 * INSTANCE_RANGES_MOST
    and redis.call('XLEN', stream) > STREAM_RANGES_MOST then
    return put_scattered(m, st, instance, task)
  end
  write_range(m, st, instance, stream, task)
end

-- The oldest entry of a stream: its id, and what it stands for. Nil if there is none.
function ready.first(stream)
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if entry then return entry[1], ready.parse(entry[2][2] or '') end
end

-- An entry of a stream is used up. The stream and its name in the queue go with the last one.
local function drop_entry(m, st, instance, stream, id)
  remove_entry(stream, id)
  if redis.call('XLEN', stream) > 0 then return end
  redis.call('UNLINK', stream)
  local member = st.id .. ':' .. instance.resource_class
  st.is_named[stream] = nil
  space.call('ZREM', names.queue(m.root, instance.queue), member)
end

-- A range begins at `lo` from now on, for what stands before it was claimed. What is left goes behind the others of its stream.
function ready.shorten(m, st, instance, stream, id, task, lo)
  local key, tag = instance.ranges, tag_of(task)
  if lo == task.hi then
    redis.call('HDEL', key, tag .. '<' .. int(task.lo), tag .. '>' .. int(task.hi))
    return drop_entry(m, st, instance, stream, id)
  end
  redis.call('HDEL', key, tag .. '<' .. int(task.lo))
  remove_entry(stream, id)
  task.lo = lo
  write_range(m, st, instance, stream, task)
end

-- Takes up to `most` stretches of at most `bite` samples from scattered ones; calls `on_take` with the ends of each.
function ready.take_scattered(m, st, instance, stream, id, task, bite, most, on_take)
  local key, book = names.scattered_bits(m.root, st.id, task.name), names.scattered(m.root, st.id)
  local left, at = whole(redis.call('HGET', book, task.name), 'of samples that are ready'), 0
  while most > 0 and left > 0 do
    at = redis.call('BITPOS', key, 1, at, -1, 'BIT')
    if at < 0 then error('missing samples that are ready', 0) end
    local stop = redis.call('BITPOS', key, 0, at, -1, 'BIT')
    stop = math.min(stop < 0 and redis.call('STRLEN', key) * 8 or stop, at + bite)
    bits.fill(key, at, stop, 0)
    on_take(task.base + at, task.base + stop)
    left, at, most = left - (stop - at), stop, most - 1
  end
  if left > 0 then
    redis.call('HSET', book, task.name, int(left))
    remove_entry(stream, id)
    add_entry(m, st, instance, stream, '*' .. task.name)
  else
    redis.call('UNLINK', key)
    redis.call('HDEL', book, task.name)
    drop_entry(m, st, instance, stream, id)
  end
end

-- Scattered samples, and retries that wait as bits, of a study that takes no more. Somebody may have changed the keys.
function work.clean_bits(m, st, items)
  local scattered, retries, keys = names.scattered(m.root, st.id), names.retries(m.root, st.id), {}
  for _, name in ipairs(space.call('HRANDFIELD', scattered, ITEMS)) do
    keys[#keys + 1] = names.scattered_bits(m.root, st.id, name)
    redis.call('HDEL', scattered, name)
  end
  for _, member in ipairs(space.call('ZRANGE', retries, 0, ITEMS - 1)) do
    keys[#keys + 1] = names.retry_bits(m.root, st.id, member)
  end
  space.call('ZREMRANGEBYRANK', retries, 0, ITEMS - 1)
  if #keys == 0 then return items - 1 end
  redis.call('UNLINK', unpack(keys))
  studies.plan(m, st, 'clean_bits')
  return items - #keys / 10
end
