-- Pauses the queue. Like every script that drains, it runs while Redis is at maxmemory.
needs('HSET')
return redis.call('HSET', STAT, 'paused', '1')
