module nara-mesh/go-baseline

go 1.25
