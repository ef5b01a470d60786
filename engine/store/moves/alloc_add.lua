#!lua
-- alloc_add: an allocation is kept from now on, by whoever runs `mrun alloc run`.
--
-- KEYS[1] root; ARGV[1] its name, [2] its terms, sealed.
-- Returns 'ok', or 'taken': there is one of that name; nothing has changed. Cost: O(1).
-- Idempotent: the very same terms are those of a call that was sent again, and get 'ok'.

local allocs, key = root .. 'allocs', root .. 'alloc:' .. ARGV[1]
local terms, now = call('HGET', key, 'terms'), int(now_ms())
if terms then return terms == ARGV[2] and 'ok' or 'taken' end
-- First the list: a name without an allocation is passed over by who reads it, and can be added again.
call('ZADD', allocs, now, ARGV[1])
call('HSET', key, 'terms', ARGV[2], 'edition', 0, 'added_at_ms', now)
return 'ok'
