-- Counters: gathered while a move runs, and written once.

local tally = {}

local function count(key, field, by)
  local fields = tally[key]
  if not fields then fields = {}; tally[key] = fields end
  fields[field] = (fields[field] or 0) + by
end

-- ready, running and retrying say where samples are, and are kept for the step and for the queue; so is dead, which
-- someone should look at.
local function count_samples(s, node, state, by)
  count(node.step_key, state, by)
  if state == 'ready' or state == 'running' or state == 'retrying' or state == 'dead' then
    count(node.queue_key, state, by)
  end
  if state == 'running' then count(study_key(s), 'running', by) end
end

-- Numbers in hashes that are read and counted up again and again in one move; `count` writes what was added.
local known = {}
local function known_number(key, field)
  local fields = known[key]
  if not fields then fields = {}; known[key] = fields end
  if not fields[field] then fields[field] = whole(call('HGET', key, field)) end
  return fields[field]
end
local function add_known(key, field, by)
  local number = known_number(key, field) + by
  known[key][field] = number
  count(key, field, by)
  return number
end

local paces = {}

local function write_tally()
  for key, pace in pairs(paces) do call('HSET', key, 'pace_ms', string.format('%.3f', pace)) end
  paces, known = {}, {}
  for key, fields in pairs(tally) do
    for field, by in pairs(fields) do
      if by ~= 0 then call('HINCRBY', key, field, int(by)) end
    end
  end
  tally = {}
end
