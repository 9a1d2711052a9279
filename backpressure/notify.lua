-- Room may have been made.
grantWaiting()
finish()
return reply(0, 0)
