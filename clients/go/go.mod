module nara-mesh.invalid/naramesh

go 1.24
