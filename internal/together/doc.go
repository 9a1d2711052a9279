// Package together has no code. Its tests use packages together: all Redis packages on one name,
// and roll-ups in the promotions of staging.
package together
