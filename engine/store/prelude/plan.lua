-- The stored plan, as far as it is in the clear.

local plans = {}
-- Studies that this move has begun to change, or is about to: what becomes of them if one of its calls fails, mend.lua says.
local worked_on = {}

local function plan_field(s, field)
  worked_on[s] = true
  return unpacked(call('HGET', study_key(s) .. ':plan', field))
end

-- Are these the first fields of a row: 'n' a number, 't' a table, 's' text, '?' a number, text or nothing? Text instead of a
-- number would raise where it is counted with.
local KINDS = {n = {number = true}, t = {table = true}, s = {string = true}, ['?'] = {number = true, string = true, ['nil'] = true}}
local function is_row(f, kinds)
  for i = 1, #kinds do
    if not KINDS[string.sub(kinds, i, i)][type(f[i])] then return false end
  end
  return true
end

local function step_of(s, i)
  if type(i) ~= 'number' then return nil end
  local key = s .. ':s' .. i
  if not plans[key] then
    local f = plan_field(s, 'step:' .. i)
    plans[key] = f and is_row(f, 'nnnnnntnn') and {size = f[1], class = f[2], max_losses = f[3], chunk = f[4], first_node = f[5], nodes = f[6],
                        after = f[7], barriers = f[8], delay_ms = f[9], dead_flags = f[10] or 0,
                        max_fails = f[11] or -1, has_past = f[12] == 1, has_grown = f[13] == 1} or nil
  end
  return plans[key]
end

-- A node with the facts of its step, but for the terms that are its own. `waits` counts what must be complete before any of
-- its samples is put: parent nodes, and parent steps as wholes (barriers).
local function node_of(s, n)
  if type(n) ~= 'number' then return nil end
  local key = s .. ':n' .. n
  if not plans[key] then
    local f = plan_field(s, 'node:' .. n)
    local step = f and is_row(f, 'nsntnn') and step_of(s, f[1])
    if not step then return nil end
    plans[key] = {n = n, step = f[1], queue = f[2], waits = f[3] + step.barriers, each_parents = f[4], each_chunks = f[5],
                  all_chunks = f[6], size = step.size, class = f[7] or step.class, max_losses = f[8] or step.max_losses,
                  chunk = f[9] or step.chunk, delay_ms = f[10] or step.delay_ms, dead_flags = f[11] or step.dead_flags,
                  key = node_key(s, n), step_key = step_key(s, f[1]), queue_key = study_key(s) .. ':queue:' .. f[2],
                  max_fails = f[12] or step.max_fails, has_grown = step.has_grown,
                  is_gated = f[3] + step.barriers > 0 or #f[4] > 1}
  end
  return plans[key]
end

-- How many nodes and steps a study has. Without its plan (lost, or cleaned before) what its hash says of its steps: how many
-- nodes, and the most samples of one.
local function shape_of(s)
  local f = plan_field(s, 'shape')
  if f and is_row(f, 'nn') then
    -- Whatever is written there: no more than there are fields.
    local most = call('HLEN', study_key(s) .. ':plan')
    return min(f[1], most), min(f[2], most), 0
  end
  local facts = call('HMGET', study_key(s), 'steps', 'step_count')
  local is_ok, steps = pcall(cjson.decode, facts[1] or '[]')
  local nodes, samples = 0, 0
  for _, one in ipairs(is_ok and type(steps) == 'table' and steps or {}) do
    nodes = nodes + whole(type(one) == 'table' and one[2])
    samples = max(samples, whole(type(one) == 'table' and one[3]))
  end
  return nodes, min(whole(facts[2]), 10000), samples
end

-- The i-th part of a study's pairs of queue and class; nil after the last one.
local function streams_of(s, i)
  local parts = plan_field(s, 'streams:' .. i)
  if not parts then return nil end
  local found = {}
  for _, pair in ipairs(parts) do
    if type(pair) == 'table' and is_row(pair, 'sn') then found[#found + 1] = pair end
  end
  return found
end
