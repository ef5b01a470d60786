-- The door of every move, as a function of the library or as a script: its context, and what becomes of it if it fails outside of
-- the work for one study. Then the studies that it had to do with end as failed, for nobody can tell what was done.

local function run(verb, keys, args)
  local m = new_context(keys[1])
  local is_done, answer = pcall(verbs[verb], m, args)
  if is_done then return answer end
  local touched = {}
  for _, action in ipairs(m.actions) do touched[action.study] = true end
  for _, hash in ipairs(m.hashes) do
    if hash.is_touched then touched[hash.study] = true end
  end
  for s in pairs(touched) do pcall(break_off, m, s, answer) end
  return redis.error_reply(text_of(answer))
end
