package otelpipeline_test

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }
