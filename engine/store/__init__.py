"""The only room that knows Redis: connect, keys, one Lua file per move, sealing."""
