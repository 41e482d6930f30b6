"""`vidmarl demo`: the whole story on clips that the program makes itself; see
`vidmarl.demo.run`."""
