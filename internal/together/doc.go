// Package together has no code. Its test uses all Redis packages on one name.
package together
