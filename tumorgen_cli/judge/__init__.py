"""The judge: an nnU-Net that segments pairs, to score and to filter them. Which one, its training, its verdict, its card."""
