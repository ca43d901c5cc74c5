"""How ranks come to life: the driver, Ray on this machine, the process group."""
