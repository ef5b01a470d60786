#!lua flags=allow-oom
-- leave: a worker says good-bye. What it still owns is put back, and counts as no loss.
--
-- KEYS[1] root; ARGV[1] worker.
-- Returns 'ok', or 'more' when it owned more than one call can put back: call again. Idempotent. Cost: O(claims held).

local w = ARGV[1]
local is_gone = remove_worker(w, 0, ITEMS / 2)
if tender() == w then call('DEL', root .. 'tend') end
finish_move()
return is_gone and 'ok' or 'more'
