package dedup_test

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
)

func TestMain(m *testing.M) {
	servertest.RapidChecks(50)
	servertest.Main(m)
}
