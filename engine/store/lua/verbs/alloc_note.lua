-- alloc_note: write down what became of an allocation's jobs; before one is submitted, that it will be.
--
-- ARGV[1] its name, [2] the keeper, [3] the edition that the new state was made from, [4] the new state, sealed; empty: forget
--   the allocation, [5] a request that is answered by this, or empty.
-- Returns the new edition, 0 if it is forgotten; or 'lost': somebody else has written since, or keeps it now. Then nothing
-- has changed, and nothing may be submitted.
-- Invariant: a state is made from the one before it, so that no number of a job is used by two keepers. A call that is sent
-- again finds its own state, and gets the same answer. Cost: O(1).

local function forget_alloc(m, name)
  redis.call('DEL', names.alloc(m.root, name))
  space.call('ZREM', names.allocs(m.root), name)
  return 0
end

function verbs.alloc_note(m, args)
  local key, edition, state = names.alloc(m.root, args[1]), tonumber(args[3]), args[4]
  local facts = space.fields(key, {'edition', 'keeper', 'state', 'request'})
  if not facts.edition then return state == '' and forget_alloc(m, args[1]) or 'lost' end
  if facts.keeper and facts.keeper ~= args[2] then return 'lost' end
  if tonumber(facts.edition) == edition + 1 and facts.state == state then return edition + 1 end
  if tonumber(facts.edition) ~= edition then return 'lost' end
  if state == '' then return forget_alloc(m, args[1]) end
  redis.call('HSET', key, 'state', state, 'edition', edition + 1)
  if args[5] ~= '' and facts.request == args[5] then redis.call('HDEL', key, 'request') end
  return edition + 1
end
