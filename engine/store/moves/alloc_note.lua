#!lua flags=allow-oom
-- alloc_note: write down what became of an allocation's jobs; before one is submitted, that it will be.
--
-- KEYS[1] root; ARGV[1] its name, [2] the keeper, [3] the edition that the new state was made from, [4] the new state,
--   sealed; empty: forget the allocation, [5] a request that is answered by this, or empty.
-- Returns the new edition, 0 if it is forgotten; or 'lost': somebody else has written since, or keeps it now. Then nothing
-- has changed, and nothing may be submitted.
-- Invariant: a state is made from the one before it, so that no number of a job is used by two keepers. A call that is sent
-- again finds its own state, and gets the same answer. Cost: O(1).

local key, edition = root .. 'alloc:' .. ARGV[1], tonumber(ARGV[3])
local function forget()
  call('DEL', key)
  call('ZREM', root .. 'allocs', ARGV[1])
  return 0
end

local facts = call('HMGET', key, 'edition', 'keeper', 'state', 'request')
if not facts[1] then return ARGV[4] == '' and forget() or 'lost' end
if facts[2] and facts[2] ~= ARGV[2] then return 'lost' end
if tonumber(facts[1]) == edition + 1 and facts[3] == ARGV[4] then return edition + 1 end
if tonumber(facts[1]) ~= edition then return 'lost' end
if ARGV[4] == '' then return forget() end
call('HSET', key, 'state', ARGV[4], 'edition', edition + 1)
if ARGV[5] ~= '' and facts[4] == ARGV[5] then call('HDEL', key, 'request') end
return edition + 1
