-- The stored plan, as far as it is in the clear.

local plans = {}
-- Studies that this move has begun to change, or is about to: what becomes of them if one of its calls fails, mend.lua says.
local worked_on = {}

local function plan_field(s, field)
  worked_on[s] = true
  return unpacked(call('HGET', study_key(s) .. ':plan', field))
end

local function step_of(s, i)
  local key = s .. ':s' .. i
  if not plans[key] then
    local f = plan_field(s, 'step:' .. i)
    plans[key] = f and {size = f[1], class = f[2], max_losses = f[3], chunk = f[4], first_node = f[5], nodes = f[6],
                        after = f[7], barriers = f[8], delay_ms = f[9], dead_flags = f[10] or 0,
                        max_fails = f[11] or -1, has_past = f[12] == 1, has_grown = f[13] == 1}
  end
  return plans[key]
end

-- A node with the facts of its step, but for the terms that are its own. `waits` counts what must be complete before any of
-- its samples is put: parent nodes, and parent steps as wholes (barriers).
local function node_of(s, n)
  local key = s .. ':n' .. n
  if not plans[key] then
    local f = plan_field(s, 'node:' .. n)
    local step = f and step_of(s, f[1])
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
