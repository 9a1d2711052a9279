package redisx

import (
	"slices"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// A check of a command without its keys reads past the arguments in the server: Valkey 9.1 crashes.
func TestRightsAreCheckedWithKeys(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const server = `local checks = {}
redis.acl_check_cmd = function(...)
  if select(1, ...) == 'MEMORY USAGE' then error('unknown command') end
  checks[#checks + 1] = table.concat({...}, ' ')
  return true
end
`
	want := []string{"SET k k", "BITFIELD k k", "SORT k k", "LMOVE k k", "ZUNIONSTORE k 1 k", "MEMORY USAGE k"}
	for name, script := range map[string]string{
		"rights":  server + RightsLua + "needs(unpack(ARGV)) return checks",
		"lacking": server + "local function run()\n" + lackingLua + "end\nrun() return checks",
	} {
		args := []string{"SET", "BITFIELD", "SORT", "LMOVE", "ZUNIONSTORE", "MEMORY USAGE"}
		if name == "lacking" {
			args[5] = "MEMORY"
		}
		got, err := client.Do(t.Context(), client.B().Eval().Script(script).Numkeys(1).Key("k").Arg(args...).Build()).AsStrSlice()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
}
