-- Hashes of studies and instances: a field is read once in a move, changed in its context, and all changes of a hash are
-- written together at the end. A count below zero was damaged from outside, and raises.

local counters = {}

function counters.open(m, s, key)
  local hash = {study = s, key = key, known = {}, changed = {}, is_changed = false, is_touched = false}
  m.hashes[#m.hashes + 1] = hash
  return hash
end

-- Reads these fields, as far as they are not known.
function counters.fetch(hash, fields)
  local known, is_known = hash.known, true
  for i = 1, #fields do is_known = is_known and known[fields[i]] ~= nil end
  if is_known then return end
  local reply = redis.call('HMGET', hash.key, unpack(fields))
  for i = 1, #fields do
    if known[fields[i]] == nil then known[fields[i]] = reply[i] end
  end
end

-- A field's text, or false.
function counters.text(hash, field)
  if hash.known[field] == nil then hash.known[field] = redis.call('HGET', hash.key, field) end
  return hash.known[field]
end

function counters.get(hash, field)
  local known = counters.text(hash, field)
  if type(known) ~= 'number' then
    known = whole(known, field)
    hash.known[field] = known
  end
  return known
end

function counters.set(hash, field, value)
  hash.known[field], hash.changed[field], hash.is_changed = value, value, true
  hash.is_touched = true
end

function counters.add(hash, field, by)
  local number = counters.get(hash, field) + by
  counters.set(hash, field, number)
  return number
end

function counters.remove(hash, ...)
  redis.call('HDEL', hash.key, ...)
  for _, field in ipairs({...}) do hash.known[field], hash.changed[field] = false, nil end
end

-- Forgets what was to be changed.
function counters.drop(hash) hash.changed, hash.is_changed = {}, false end

function counters.write(hash)
  if not hash.is_changed then return end
  local words = {}
  for field, value in pairs(hash.changed) do
    if type(value) == 'number' then
      if value < 0 then error('a count below zero of ' .. field, 0) end
      -- Only the pace has a fraction.
      value = string.format(value % 1 == 0 and '%d' or '%.3f', value)
    end
    words[#words + 1], words[#words + 2] = field, value
  end
  counters.drop(hash)
  if #words > 0 then redis.call('HSET', hash.key, unpack(words)) end
end

-- Samples of an instance come into a state, or leave it. Where its step has several queues, those that are ready, running,
-- retrying or dead are counted for each.
local ON_QUEUE = {ready = true, running = true, retrying = true, dead = true}
function counters.name(instance, state)
  local name = instance.fields[state]
  if not name then
    name = instance.step_text .. ':' .. state .. (ON_QUEUE[state] and instance.suffix or '')
    instance.fields[state] = name
  end
  return name
end

function counters.count(st, instance, state, by)
  counters.add(st.hash, counters.name(instance, state), by)
  if state == 'running' then counters.add(st.hash, 'running', by) end
end
