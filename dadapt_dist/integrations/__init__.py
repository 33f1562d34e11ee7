"""What do trainers of other libraries need beside the optimizer? One file for each; importing dadapt_dist imports none."""
